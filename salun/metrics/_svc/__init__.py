"""The support vector machine of the membership attacks: scikit-learn's predictions at a fraction of the time."""

from salun.metrics._svc.machine import called_members

__all__ = ["called_members"]
