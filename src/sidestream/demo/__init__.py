"""What ``sidestream demo`` runs: a scripted provider, a scripted agent, and the gateway between them."""
