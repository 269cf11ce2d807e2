"""Exact speculation: rounds of drafts as steps of the engine."""
