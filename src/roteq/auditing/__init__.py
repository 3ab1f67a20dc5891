"""How any model behaves when the picture is turned."""

from .config import AuditConfig
from .limits import assert_rotation_robust, broken_limits
from .measuring import audit, audit_dataset, audit_subjects

__all__ = ["AuditConfig", "assert_rotation_robust", "audit", "audit_dataset", "audit_subjects", "broken_limits"]
