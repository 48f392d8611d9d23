"""A latent GAN of unbounded length (Musika)."""
