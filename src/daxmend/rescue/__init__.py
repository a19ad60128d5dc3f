"""What commands work on, behind one protocol; and from an error to the range to recover.

`opening` makes a target of a name, `subjectopening` a file to save or repair. Nothing is imported
here, and what a pool needs only where one is opened, so that commands start fast.
"""
