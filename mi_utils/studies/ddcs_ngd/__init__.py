"""The study of DDCS and of transfer by a natural gradient (arXiv 2502.19070)."""
