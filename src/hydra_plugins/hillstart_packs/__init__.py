"""A Hydra sweeper and launcher that train the jobs of a multirun in packs.

A pack is a group of jobs that differ in per-start values alone. Each pack is one job of whichever launcher the user
chose: `packs/K` in the sweep's folder holds its log and `pack.json`, the list of its jobs. The jobs of a pack keep
their own folders, logs and return values, as if Hydra had run each; only `JobReturn.cfg` and `hydra_cfg` are None,
because those of 100,000 jobs would fill the memory. Callbacks of Hydra are told of each job, and of each pack.

An app takes part by giving attributes to the task function that it hands to `hydra.main`:

- `per_start`: the dotted keys in which the jobs of one pack may differ;
- `together(cfgs, done)`: takes the configs of one pack and yields `(index into cfgs, finish)` as each result is ready,
  in any order, for all but the indices in `done`; `finish(cfg)` runs in the job's own context and returns its value, or
  `finish` is the error by which the job failed;
- `per_pack`, optional: top-level nodes that belong to the pack as a whole, such as its logger;
- `jobs_per_pack(cfg, distributed)`, optional: the largest number of jobs in a pack, or None for all; `distributed` is
  True with a launcher other than ours;
- `finished(folder, overrides, held)`, optional: the value of a job that an earlier, interrupted sweep has finished in
  `folder`, else None; where it is not finished and `held`, what is left of it may be removed;
- `holding(folder)`, optional: a context in which no other process runs the pack in `folder`.

Any other task function runs as with Hydra's basic sweeper, except that a job that fails does not stop the others.
Hydra imports these modules when any Hydra app starts: keep them light.
"""
