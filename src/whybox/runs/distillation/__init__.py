"""The ODAM paper's tables on distillation."""
