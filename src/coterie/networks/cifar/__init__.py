"""The CIFAR networks of the papers."""
