"""Errors of a network that compares pictures: every picture encoded once, comparisons in jitted batches of one size.

Shapes: M queries (of all draws together), C queries a batch, k references each, W ways of answering.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core_jax.train import Params
from gaze_jax import geometry, modes, splits
from gaze_jax.gaze_set import GazeSet
from gaze_jax.judging.reading import batches, corrupted, refuse
from gaze_jax.model import Codes, Model


class Way(NamedTuple):
    """A mode with its number of references, of which the first `noisy` are replaced by noise."""

    mode: str
    k: int
    noisy: int = 0


class Tables(NamedTuple):
    """Codes of the pictures of a person by position: as queries, as references, and as the noise that replaces these."""

    queries: Codes
    references: Codes
    noise: Codes


class Person(NamedTuple):
    """One person and the rows of the set that are judged."""

    name: str
    rows: Int[np.ndarray, " n"]


class Chosen(NamedTuple):
    """Who is compared with whom: positions in the tables, and what is known of them."""

    query: Int[np.ndarray, " M"]
    references: Int[np.ndarray, "M k"]
    reference_gaze: Float[np.ndarray, "M k 2"]
    gaze: Float[np.ndarray, "M 2"]
    draw: Int[np.ndarray, " M"]


class PairErrors:
    """What judging asks of a network on one set of pictures.

    Args:
      model: with `references`.
      params: its arrays.
      gaze_set: what is judged on.
      rows: of it.
      k: the largest number of references.
      draws: how many choices of references.
      queries: pictures scored per person and draw, evenly spaced; 0 scores all.
      pool_sides: whether references serve both eyes of a person.
      seed: of references and corruptions.
      batch_size: pictures encoded or comparisons made at once.

    Raises:
      ValueError: the pictures are not of the model's kind, or nobody has more than k of a side.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        gaze_set: GazeSet,
        rows: Int[np.ndarray, " n"],
        *,
        k: int,
        draws: int,
        queries: int,
        pool_sides: bool,
        seed: int,
        batch_size: int,
    ):
        refuse(model, gaze_set, rows)
        self._model, self._params, self._set = model, params, gaze_set
        self._queries, self._seed, self._batch = queries, seed, batch_size
        self._rows = enough(gaze_set, np.sort(np.asarray(rows, np.int64)), k, pool_sides)
        self._draws = splits.references(gaze_set, self._rows, k, draws, seed, pool_sides=pool_sides)
        self._capacity = int(np.unique(gaze_set.person[self._rows], return_counts=True)[1].max())

    def persons(self, progress: bool) -> Iterator[Person]:
        """The judged persons; a bar appears when it takes long."""
        from tqdm import auto as tqdm

        whose = self._set.person[self._rows]
        numbers = np.unique(whose).tolist()
        shown: dict[str, Any] = {"unit": "person", "leave": False, "delay": 2.0}
        for number in tqdm.tqdm(numbers, desc="judging pairs", disable=not progress, **shown):
            yield Person(self._set.persons[number], self._rows[whose == number])

    def codes(self, person: Person, kind: str | None = None, severity: int = 0) -> Codes:
        """Codes of all pictures of a person, clean or corrupted."""
        found: dict[str, np.ndarray] = {}
        for start, count, batch in batches(self._set, person.rows, self._batch, "", False):
            images = batch["image"]
            if kind is not None:
                images = corrupted(batch, kind, severity, self._seed)
            made = _encode(self._params, images, batch["head"], model=self._model)
            for name, value in made.items():
                value = np.asarray(value)
                if name not in found:
                    # As long for every person, so that there is one program.
                    found[name] = np.zeros((self._capacity, *value.shape[1:]), value.dtype)
                found[name][start : start + count] = value[:count]
        return {name: jnp.asarray(value) for name, value in found.items()}

    def chosen(self, person: Person, draws: int) -> Chosen:
        """The queries of a person and their references in the first draws."""
        parts = []
        for number, draw in enumerate(self._draws[:draws]):
            mine = np.flatnonzero(np.isin(draw.scored, person.rows))
            if self._queries and len(mine) > self._queries:
                mine = mine[np.linspace(0, len(mine) - 1, self._queries).round().astype(int)]
            query = np.searchsorted(person.rows, draw.scored[mine])
            references = np.searchsorted(person.rows, draw.references[mine])
            parts.append((query, references, np.full(len(mine), number)))
        query, references, draw = (np.concatenate(part) for part in zip(*parts))
        gaze = self._set.gaze[person.rows]
        return Chosen(query, references, gaze[references], gaze[query], draw)

    def alone(self, person: Person) -> Chosen:
        """Every picture of a person compared with itself."""
        query = np.arange(len(person.rows))
        gaze = self._set.gaze[person.rows]
        itself = query[:, None]
        return Chosen(query, itself, gaze[:, None], gaze, np.zeros_like(query))

    def errors(
        self,
        tables: Tables,
        chosen: Chosen,
        ways: tuple[Way, ...],
        shares: Sequence[float] | Float[np.ndarray, " W"],
    ) -> Float[np.ndarray, "W D 3"]:
        """Mean errors in degrees of every way and draw: angular, pitch, yaw.

        Args:
          tables: codes of queries, references and noise.
          chosen: who is compared.
          ways: what is answered.
          shares: b of "blend" for each way.
        """
        total, wide = len(chosen.query), chosen.references.shape[1]
        size = max(1, self._batch // wide)
        blend = np.asarray(shares, np.float32)
        found = np.zeros((len(ways), total, 3))
        for start in range(0, total, size):
            places = np.minimum(np.arange(start, start + size), total - 1)
            part = Chosen(*(field[places] for field in chosen))
            values = _errors(
                self._params,
                tables,
                part.query.astype(np.int32),
                part.references.astype(np.int32),
                part.reference_gaze,
                part.gaze,
                blend,
                model=self._model,
                ways=ways,
            )
            count = min(size, total - start)
            found[:, start : start + count] = np.asarray(values)[:, :count]
        draws = np.unique(chosen.draw)
        return np.stack([found[:, chosen.draw == draw].mean(1) for draw in draws], axis=1)


def possible(
    model: Model, params: Params, gaze_set: GazeSet, asked: Sequence[str]
) -> tuple[str, ...]:
    """The modes, of those asked for, that a model has the heads for.

    Raises:
      ValueError: it compares nothing.
    """
    if model.references is None:
        raise ValueError(f"{model.name} looks at one picture at a time: use judge")
    batch = gaze_set.batch(np.zeros(1, np.int64))
    codes = jax.eval_shape(model.references.encode, params, batch["image"], batch["head"])
    absolute, difference = jax.eval_shape(model.references.compare, params, codes, codes)
    lacking: set[str] = set()
    if absolute is None:
        lacking |= {"single", "calib", "blend"}
    if difference is None:
        lacking |= {"diffnn", "blend"}
    return tuple(mode for mode in asked if mode not in lacking)


def enough(
    gaze_set: GazeSet, rows: Int[np.ndarray, " n"], k: int, pool_sides: bool
) -> Int[np.ndarray, " m"]:
    """The rows of persons and sides with more than k pictures; how many others there are is printed.

    Raises:
      ValueError: there are none.
    """
    side = np.zeros(len(rows), np.int64) if pool_sides else gaze_set.side[rows]
    keys = np.stack([gaze_set.person[rows], side], axis=1)
    _, group, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    kept = rows[counts[group.reshape(-1)] > k]
    if not len(kept):
        raise ValueError(
            f"{gaze_set.name}: nobody has more than k={k} pictures of a side to refer to; ask for fewer references"
        )
    if len(kept) < len(rows):
        print(
            f"{gaze_set.name}: {len(rows) - len(kept)} of {len(rows)} pictures are not judged with references: theirs "
            f"are {int((counts <= k).sum())} persons and sides of no more than k={k} pictures",
            flush=True,
        )
    return kept


@functools.partial(jax.jit, static_argnames="model")
def _encode(params: Params, images: Array, head: Array, *, model: Model) -> Codes:
    assert model.references is not None
    return model.references.encode(params, images, head)


@functools.partial(jax.jit, static_argnames=("model", "ways"))
def _errors(
    params: Params,
    tables: Tables,
    query: Int[Array, " C"],
    references: Int[Array, "C k"],
    reference_gaze: Float[Array, "C k 2"],
    gaze: Float[Array, "C 2"],
    blend: Float[Array, " W"],
    *,
    model: Model,
    ways: tuple[Way, ...],
) -> Float[Array, "W C 3"]:
    assert model.references is not None
    compare, count, k = model.references.compare, *references.shape
    asked = {name: value[jnp.repeat(query, k)] for name, value in tables.queries.items()}

    def against(table: Codes) -> tuple[Array | None, Array | None]:
        codes = {name: value[references.reshape(-1)] for name, value in table.items()}
        return jax.tree.map(
            lambda x: x.astype(jnp.float32).reshape(count, k, 2), compare(params, asked, codes)
        )

    clean = against(tables.references)
    spoilt = against(tables.noise) if any(way.noisy for way in ways) else clean
    found = []
    for number, way in enumerate(ways):
        mix = functools.partial(jnp.where, (jnp.arange(k) < way.noisy)[None, :, None])
        absolute, difference = jax.tree.map(mix, spoilt, clean)
        if absolute is not None:
            absolute = absolute[:, : way.k]
        if difference is not None:
            difference = difference[:, : way.k]
        known = reference_gaze[:, : way.k]
        answer = modes.combine(way.mode, absolute, difference, known, blend[number])
        apart = answer - gaze
        parts = jnp.abs(jnp.arctan2(jnp.sin(apart), jnp.cos(apart)))
        angular = geometry.angular_error_deg(answer, gaze)
        found.append(jnp.concatenate([angular[:, None], jnp.rad2deg(parts)], axis=1))
    return jnp.stack(found)
