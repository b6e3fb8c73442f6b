from allocmoe.cli import main

main()
