"""The page docs/performance.md, from what the benchmarks measured and from nothing else."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from launch.benchmarks import timing

Result = Mapping[str, Any]

HEAD = """# Performance

`python -m launch.bench all` measured every number here and wrote this page; repeat it on your machine. Each section names the
command for its part alone. "Ours" and "other" are the two sides of a claim, measured in one run; the ratio is above 1 where ours is
better. Times on shared machines vary; ratios vary less.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
      name: of the benchmark, as the command takes it.
      title: heading.
      prose: what is measured and how to repeat it.
      result: as `suite.run_one` writes it; None if nothing was measured.
    """

    name: str
    title: str
    prose: str
    result: Result | None


def page(sections: Sequence[Section]) -> str:
    """The whole page, Markdown."""
    measured = [(section, section.result) for section in sections if section.result is not None]
    missing = [f"`{section.name}`" for section in sections if section.result is None]
    parts = [HEAD, _machines(measured)]
    if missing:
        parts.append(f"Not measured here: {', '.join(missing)}.\n")
    parts += [_section(section, result) for section, result in measured]
    return "\n".join(parts)


def _machines(measured: Sequence[tuple[Section, Result]]) -> str:
    """The machine; several, with their sections, if the results come from several."""
    found: dict[str, list[str]] = {}
    for section, result in measured:
        found.setdefault(machine_text(result["machine"]), []).append(section.title)
    if len(found) == 1:
        return f"Measured on {next(iter(found))}.\n"
    lines = [f"- {', '.join(titles)}: measured on {text}." for text, titles in found.items()]
    return "\n".join(lines) + "\n"


def machine_text(facts: Mapping[str, Any]) -> str:
    """`machine.facts` in one line."""
    memory = f", {facts['memory_mb'] / 1024:.1f} GB of memory" if facts["memory_mb"] else ""
    torch = f"torch {facts['torch']}" if facts["torch"] else "without torch, whose side is left out"
    # Results that were kept before this was looked at do not say.
    tunables = facts.get("glibc_tunables")
    memory_settings = f"; GLIBC_TUNABLES={tunables}" if tunables else ""
    return (
        f"{facts['cores']} cores of {facts['cpu']}{memory}, JAX devices {facts['device']}; {facts['platform']}, "
        f"Python {facts['python']}, jax {facts['jax']}, jaxlib {facts['jaxlib']}, numpy {facts['numpy']}, {torch}{memory_settings}"
    )


def _section(section: Section, result: Result) -> str:
    rows = result["rows"]
    notes = [f"- {row['work']}: {row['note']}" for row in rows if "note" in row]
    blocks = [
        f"## {section.title}",
        section.prose.strip(),
        table(rows),
        *(["\n".join(notes)] if notes else []),
        _footer(section.name, result),
    ]
    return "\n\n".join(blocks) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as `timing.Rows` has them, as a Markdown table; one column of numbers where nothing is compared."""
    compared = any(row["other"] is not None for row in rows)
    heads = ["work", "ours", "other", "ratio"] if compared else ["work", "measured"]
    cells = [
        [
            row["work"].replace("|", "\\|"),
            timing.text(row["ours"], row["unit"]),
            timing.text(row["other"], row["unit"]),
            timing.ratio_text(row["ratio"]) + timing.spread_text(row.get("spread")),
        ][: len(heads)]
        for row in rows
    ]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _footer(name: str, result: Result) -> str:
    command = " ".join(["python -m launch.bench", name, *result["arguments"]])
    busy, cores = result["busy_cores_before"], result["machine"]["cores"]
    load = (
        "" if busy is None else f" Before it began, others kept {busy:.2f} of {cores} cores busy."
    )
    return (
        f"`{command}`, {result['date']}: {result['seconds']:,.0f} s, peak memory of its process "
        f"{timing.text(result['peak_mb'], 'MB')}.{load}"
    )
