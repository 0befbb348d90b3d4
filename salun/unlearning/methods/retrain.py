from salun.unlearning import Task, method


@method(maskable=False)
def retrain(task: Task) -> None:
    """Retrain from scratch on the retain set by the base model's own recipe: the gold standard.

    It has no settings, because with another recipe than the base model's it would be no standard.

    Args:
        task: what to unlearn.

    Equation:
        theta = A(retain) for the training algorithm A of the base model.

    Deviations:
        None.

    Source:
        Bourtoule et al., "Machine Unlearning", S&P 2021, https://arxiv.org/abs/1912.03817, section II, where it is the
        baseline that everything else is held against.
    """
    task.retrain()
