"""How good suggestions are: fleets whose true policy is known, their traffic, and the score. docs/suggestions.md."""
