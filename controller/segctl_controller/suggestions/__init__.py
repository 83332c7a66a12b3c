"""Suggestions of rules: what the flow store holds goes to segctl.suggest, and what people decide is kept."""
