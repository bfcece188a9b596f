"""What is reused: the output of the model, or the residuals of its blocks."""
