from pyflowx.cli import main

main()
