"""The section on what was run: options, versions and machine."""

from hillstart.report.finished_run import FinishedRun
from hillstart.report.page import Section


def section(run: FinishedRun) -> Section:
    """Facts and figures, so that whoever holds the page can repeat the run."""
    summary, data, population = run.summary, run.population.data, run.population
    counts = summary["pictures"]
    pictures = f"{counts['train']} to train, {counts['val']} to validate, {counts['test']} to test"
    facts = {
        "pictures": f"{data.source}; {pictures}",
        "network": f"{' – '.join(map(str, population.sizes))} nodes, {run.model.network.activation}, "
        f"cost {run.model.network.cost.replace('_', ' ')}",
        "starts": f"{len(run.rows)} in {run.jobs} jobs" if run.jobs > 1 else str(summary["starts"]),
        "epochs": f"{summary['epochs']} at most; {summary['epochs_trained']} over all starts",
        "descent": population.descent.optimiser_name
        + f", mini-batches of {population.descent.batch_size}, eta {population.descent.schedule}",
        **({"saturated hidden nodes": f"{summary['saturated']:.1%}"} if "saturated" in summary else {}),
        "training": f"{summary['seconds']:.1f} s on {summary['device']}"
        + (f", {summary['ranks']} ranks" if summary["ranks"] > 1 else ""),
        "versions": ", ".join(f"{name} {number}" for name, number in summary["versions"].items()),
        "commit": summary["commit"] or "not known",
    }
    return Section(
        "run",
        "What was run",
        "With these options and versions, a machine of the same kind gives the same numbers again, chance included.",
        {"facts": facts, "options": run.options, "job": run.jobs > 1},
    )
