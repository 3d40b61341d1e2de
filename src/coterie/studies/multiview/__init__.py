"""What the multi-view theory says of ensembles and distillation, on a compact instance of its own data and network.

Allen-Zhu, Li, *Towards Understanding Ensemble, Knowledge Distillation and Self-Distillation in Deep Learning* (ICLR
2023, arXiv 2012.09816). Every experiment is a function of options and a seed that gives, for each part, its metrics in
percent; what the instance has other than the theory is in ``docs/guides/multiview.md``.
"""
