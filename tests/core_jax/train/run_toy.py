"""The toy task as a process of its own: `python -m tests.core_jax.train.run_toy WORKDIR STEPS`.

Writes the last state to WORKDIR/final-PROCESS.npz. Batches take a few milliseconds, so that a kill
finds the run at work.
"""

import argparse
import pathlib
import sys
import time

import jax
import numpy as np
import optax

from core_jax import train
from tests.core_jax.train import toy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--save_every", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--port", type=int)
    parser.add_argument("--profile", type=int, nargs=2)
    args = parser.parse_args()
    if args.port:
        jax.distributed.initialize(f"localhost:{args.port}", 2, args.process)

    def slowly(item):
        time.sleep(args.pause)
        return item

    task = toy.make(
        args.steps,
        noise=0.1,
        optimizer=lambda: optax.adam(0.05),
        train_data=lambda seed: toy.train_data(seed).map(slowly),
    )
    options = train.FitOptions(
        seed=1,
        log_every=1,
        save_every=args.save_every,
        profile=args.profile and tuple(args.profile),
    )
    try:
        state = train.fit(task, options, workdir=args.workdir, resume=True)
    except train.Preempted as told:
        print(told, file=sys.stderr)
        raise
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    np.savez(args.workdir / f"final-{args.process}.npz", *leaves)


if __name__ == "__main__":
    main()
