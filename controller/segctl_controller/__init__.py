"""The controller: policy, inventory, identity, and one stream to every agent."""
