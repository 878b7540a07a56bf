"""What every pass builds on: sites, splices, scopes, types, names, constants."""
