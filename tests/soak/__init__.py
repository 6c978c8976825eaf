"""Everything at once, for ten minutes: does it fail, and does it grow?"""
