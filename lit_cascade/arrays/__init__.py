"""Arrays that other frameworks wrote: read from files, checked, and named in messages."""
