"""The check of an environment: what its tasks edit is what is simulated."""

from roml_jax.envs.door.examine import at_the_door, check, is_on_c, unchecked
from roml_jax.envs.door.report import Finding, Part, Report, Row, show

__all__ = ["Finding", "Part", "Report", "Row", "at_the_door", "check", "is_on_c", "show", "unchecked"]
