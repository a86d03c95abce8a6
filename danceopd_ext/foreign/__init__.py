"""Where foreign files become ours: text, TOML, JSON and tables are read here, within limits, and nowhere else.

Whatever a file holds, the answer is a value of plain types or a UserError that names the file. What the value means is
the business of the room that asked. This room imports nothing of ours but `errors`.
"""
