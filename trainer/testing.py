"""What an experiment's own tests need: the assertion that it resumes exactly."""

from __future__ import annotations

from trainer.proof.compare import NOT_COMPARED
from trainer.proof.options import SET_HERE
from trainer.proof.resume import ResumeReport, assert_resumes_exactly

__all__ = ["NOT_COMPARED", "SET_HERE", "ResumeReport", "assert_resumes_exactly"]
