from salun.unlearning import Task, TrainingConfig, method


@method(training=TrainingConfig(), forgets=False)
def ft(task: Task) -> None:
    """Fine-tune on the retain images and rely on forgetting what is no longer seen.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.

    Equation:
        L = CE(retain).

    Deviations:
        None from the baseline of the SalUn paper.

    Source:
        Warnecke, Pirch, Wressnegger and Rieck, "Machine Unlearning of Features and Labels", NDSS 2023,
        https://arxiv.org/abs/2108.11577; settings of Fan et al., https://arxiv.org/abs/2310.12508.
    """
    task.fit(lambda epoch: task.batches(task.retain))
