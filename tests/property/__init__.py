"""Properties that hold for everything that Hypothesis and mutation think of."""
