"""Which layouts a model is right in, and what makes it right in them where its layers are not plain attention."""
