"""What must hold before an alias moves: policies, approvals, and the one gate through which every move goes; and what was
decided.
"""
