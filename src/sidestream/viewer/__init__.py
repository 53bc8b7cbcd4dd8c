"""The viewer: pages, a JSON API and Explorer's own over the store; an aiohttp application in the recorder."""
