"""Gathers what the controller knows for segctl.policy.life, and tells what that made of it."""
