"""From observed flows to few, general rules: pure. `segctl.suggest.engine.suggest` is the way in, and
docs/suggestions.md says how it judges."""
