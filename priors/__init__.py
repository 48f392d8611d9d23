"""The priors: models that map conditions to codes or latents. They read codes, labels and lyrics, never audio files."""
