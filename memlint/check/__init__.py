"""From source to findings: gate, parse, model, rules, suppression, positions."""
