"""What both machines read and write: records, results, plans, the ordered link, ports."""
