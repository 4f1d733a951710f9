"""What frames tell an attacker: trained attackers on real and synthetic voices, and a page of what they find."""
