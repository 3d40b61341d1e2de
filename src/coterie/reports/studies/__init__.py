"""A page from studies: tables, drawings and verdicts."""
