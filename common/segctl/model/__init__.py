"""Values shared by every part of segctl: frozen, without I/O."""
