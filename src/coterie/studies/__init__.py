"""Studies: what holds, measured so that anyone can measure it again."""
