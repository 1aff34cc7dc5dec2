"""A Hydra sweeper and launcher that run the jobs of a multirun as packs.

An app takes part by giving attributes to the task function that it hands to `hydra.main`:

- `per_start`: the dotted keys in which the jobs of one pack may differ;
- `together(cfgs)`: takes the task configs of one pack and yields `(index into cfgs, finish)` as each job's result is
  ready, in any order; `finish(cfg)` runs in the job's own context and returns its value or raises;
- `per_pack`, optional: top-level nodes that belong to the pack as a whole, such as its logger. While `together` runs,
  `hydra.runtime.output_dir` is the sweep's folder;
- `closing(sweep_dir)`, optional: called once when a launch ends, however it ends.

Any other task function, and any group of jobs that cannot be packed, runs one job after another.
Hydra imports every module here, but for those whose name begins with _, when any Hydra app starts: keep them light.
"""
