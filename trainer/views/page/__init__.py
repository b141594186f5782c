"""The report: one page of HTML, or one picture, of one or several run directories."""
