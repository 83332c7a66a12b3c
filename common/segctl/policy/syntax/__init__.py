"""From bytes to values: YAML with positions, the grammar of single words, and the sections of the policy file."""
