"""The study of DDCS and of transfer by natural gradient."""
