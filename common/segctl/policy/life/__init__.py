"""How a policy lives on: selectors move through their phases, rules age. Pure: values in, judgements out."""
