"""The study of DDCS and transfer by natural gradients: what each private image has to do with being found."""
