"""Headless Chromium, and packages of npm."""

import os
import shutil
import subprocess

NEEDED_FOR_NPM = ("node", "npm", "chromium", "chromedriver")

# A new profile each time, no sandbox as root, and no background network traffic of Chromium.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1000",
]


def missing(programs) -> list[str]:
    """Programs that are not installed."""
    return [program for program in programs if not shutil.which(program)]


def npm(at, *words):
    """Runs npm in a folder."""
    environment = os.environ | {"npm_config_ignore_scripts": "true", "npm_config_update_notifier": "false"}
    done = subprocess.run(
        ["npm", *words], cwd=at, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=600
    )
    assert done.returncode == 0, f"npm {' '.join(words)}\n{done.stdout}\n{done.stderr}"


def start(profile):
    """A browser with a profile of its own, which records its console and its requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
