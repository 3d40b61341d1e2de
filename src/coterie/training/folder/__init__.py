"""What the folder of a Run holds while it is trained, and how a training goes on from it."""
