"""The house rules that a program can check: floors, sizes, docstrings, and what must not be imported or called."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
# Rooms by floor: a file may import from its own room and from lower floors, never upwards or sideways.
FLOORS = {
    "configs": 0,
    "core_jax.clip": 1,
    "core_jax.nn": 1,
    "core_jax.data": 2,
    "core_jax.world": 2,
    "core_jax.train": 3,
    "fdbpl_jax": 4,
    "gba_jax": 4,
    "gaze_jax": 4,
    "launch": 5,
}
# The allowed steps sideways: the world writes its data sets with the same atomic files as everything else, and a CLIP whose
# image tower is a general backbone takes that from core_jax.nn.
SIDEWAYS = {("core_jax.world", "core_jax.data"), ("core_jax.clip", "core_jax.nn")}
PACKAGES = ("configs", "core_jax", "fdbpl_jax", "gba_jax", "gaze_jax", "launch")
# Never at run time: the first two are references in tests, the others would bring TensorFlow along.
FOREIGN = {"torch", "transformers", "tensorflow", "clu", "torchvision", "open_clip"}
MOST_LINES = 400


def sources() -> list[pathlib.Path]:
    return sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def module(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str | None:
    """The room that a module lies in; None for other people's modules and for bare namespaces."""
    return next((r for r in FLOORS if name == r or name.startswith(f"{r}.")), None)


def imports(tree: ast.Module, path: pathlib.Path) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, wherever in the file; `from a import b` may mean a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def parsed() -> Iterator[tuple[pathlib.Path, ast.Module]]:
    for path in sources():
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def report(problems: list[str]) -> None:
    assert not problems, "\n" + "\n".join(sorted(set(problems)))


def test_there_is_something_to_check():
    assert {room(module(path)) for path in sources()} >= {"core_jax.clip", "launch"}


def test_imports_run_downwards_only():
    problems = []
    for path, tree in parsed():
        here = room(module(path))
        for name, line in imports(tree, path):
            there = room(name)
            if there is None or there == here or (here, there) in SIDEWAYS:
                continue
            if here is None or FLOORS[there] >= FLOORS[here]:
                problems.append(
                    f"{path.relative_to(ROOT)}:{line}: {here or module(path)} -> {there}"
                )
    report(problems)


def test_configurations_import_nothing_but_ml_collections():
    problems = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path, tree in parsed()
        if room(module(path)) == "configs"
        for name, line in imports(tree, path)
        if name.split(".")[0] not in ("ml_collections", "configs")
    ]
    report(problems)


def test_no_foreign_framework_at_run_time():
    problems = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for path, tree in parsed()
        # Benchmarks measure against the reference where it is installed.
        if not module(path).startswith("launch.bench")
        for name, line in imports(tree, path)
        if name.split(".")[0] in FOREIGN
    ]
    report(problems)


def test_files_stay_readable_in_one_sitting():
    problems = [
        f"{path.relative_to(ROOT)}: {lines} lines, more than {MOST_LINES}: split it"
        for path in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    ]
    report(problems)


def test_everything_public_says_what_it_is():
    problems = []
    for path, tree in parsed():
        where = path.relative_to(ROOT)
        if not ast.get_docstring(tree):
            problems.append(f"{where}: no module docstring")
        public = [
            (node, f"{owner}{node.name}")
            for parent, owner in [(tree, ""), *((n, f"{n.name}.") for n in classes(tree))]
            for node in parent.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and not node.name.startswith("_")
            and not is_overload(node)
        ]
        problems += [
            f"{where}:{node.lineno}: {name} has no docstring"
            for node, name in public
            if not ast.get_docstring(node)
        ]
    report(problems)


def is_overload(node: ast.AST) -> bool:
    """The signatures that `typing.overload` lists; the function itself has the docstring."""
    names = {ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])}
    return bool(names & {"overload", "typing.overload"})


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]


def test_no_banned_calls():
    """No code execution from data, no retired JAX interfaces, no swallowed errors."""
    names = {"eval", "exec", "pmap", "PRNGKey", "device_put_sharded", "device_put_replicated"}
    problems = []
    for path, tree in parsed():
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                called = node.func
                if isinstance(called, ast.Name) and called.id in names:
                    problems.append(f"{where}: {called.id}(...)")
                if isinstance(called, ast.Attribute) and called.attr in names - {"eval", "exec"}:
                    problems.append(f"{where}: .{called.attr}(...)")
                problems += [
                    f"{where}: allow_pickle"
                    for k in node.keywords
                    if k.arg == "allow_pickle" and getattr(k.value, "value", None) is not False
                ]
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                problems.append(f"{where}: bare except")
            broad = isinstance(node, ast.ExceptHandler) and is_broad(node.type)
            if broad and all(isinstance(line, ast.Pass) for line in node.body):
                problems.append(f"{where}: an exception of any kind is swallowed")
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                words = {alias.name.split(".")[0] for alias in node.names}
                words.add((getattr(node, "module", "") or "").split(".")[0])
                if words & {"pickle", "dill", "marshal", "shelve"}:
                    problems.append(f"{where}: imports {sorted(words)}")
    report(problems)


def is_broad(kind: ast.expr | None) -> bool:
    return isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")


def test_importing_brings_no_foreign_framework():
    packages = "core_jax.clip, core_jax.train, core_jax.world, fdbpl_jax, launch.train"
    code = f"import sys, {packages}; print(sorted({FOREIGN!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr
