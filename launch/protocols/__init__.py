"""The field's protocols: what each trains, what it is judged on, and how its numbers are reported."""
