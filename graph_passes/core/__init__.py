"""What every pass stands on: sites, splices, scopes, types, names, constants."""
