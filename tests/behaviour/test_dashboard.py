"""The dashboard of a running proxy, in Chromium."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from tests.behaviour.crew import TWO, Crew
from tests.behaviour.running import Launcher, Proxy, until
from tests.peers import Upstream, http_answer, request
from tests.real_parts import real_part

# The flags with which Chromium runs as root and leaves the network alone.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE, DESKTOP = (360, 740), (1280, 900)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    options = Options()
    options.binary_location = real_part("chromium", "chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    browser = Chrome(options, Service(real_part("chromedriver", "chromium-driver")))
    yield browser
    browser.quit()


class Page:
    """The dashboard, as a person has it on the screen."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, proxy: Proxy) -> None:
        self.browser.get(f"http://127.0.0.1:{proxy.admin_port}/")
        until(lambda: self.text("#health") != "Loading", "the first status on the page")

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """What can be read in the elements; in one step, because the page may replace them at any moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.innerText)"
        texts: list[str] = self.run(script, selector)
        return texts

    def text(self, selector: str) -> str:
        return " ".join(self.texts(selector))

    def attribute(self, selector: str, name: str) -> str:
        """Empty where there is none."""
        return str(
            self.run("return document.querySelector(arguments[0])?.getAttribute(arguments[1]) ?? ''", selector, name)
        )

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def command(self, name: str, **parameters: object) -> None:
        self.browser.execute_cdp_cmd(name, parameters)

    def resize(self, size: tuple[int, int]) -> None:
        width, height = size
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )

    def prefer(self, scheme: str) -> None:
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def requests(self) -> list[str]:
        """The rows of the table of requests: method and path."""
        return self.texts("#recent tbody .path")

    def shows(self, row: str) -> bool:
        return row in self.requests()

    def press(self, *keys: str) -> WebElement:
        """The element that has the focus after these keys."""
        ActionChains(self.browser).send_keys(*keys).perform()
        return self.browser.switch_to.active_element

    def complaints(self) -> list[str]:
        """What the console has: errors of scripts, and violations of the Content-Security-Policy."""
        return [entry["message"] for entry in self.browser.get_log("browser")]  # type: ignore[no-untyped-call]


@pytest.fixture
def page(chromium: Chrome) -> Iterator[Page]:
    page = Page(chromium)
    page.resize(DESKTOP)
    page.prefer("light")
    page.complaints()
    yield page
    chromium.get("about:blank")


def get(proxy: Proxy, target: bytes) -> None:
    with proxy.connect() as client:
        client.get(target)


def test_a_proxy_that_is_well(page: Page, proxy: Proxy) -> None:
    """A person sees in words, shape and title that it is well, and the console has no complaint."""
    page.open(proxy)
    assert page.text("#health") == "OK"
    assert page.text("#reason") == "There is a usable token."
    assert page.browser.title == "OK · thg-proxy"
    (shape,) = [path for path in page.browser.find_elements(By.CSS_SELECTOR, "#state path") if path.is_displayed()]
    assert shape.get_attribute("class") == "ok"
    assert "primary" in page.text("#clients")
    assert page.complaints() == []


def test_workers(page: Page, proxy: Proxy, launch: Launcher, upstream: Upstream) -> None:
    """Where there are several processes, each has a row, and a death is seen; where there is one, it is not shown."""
    page.open(proxy)
    assert not page.find("#workers").is_displayed()

    crew = Crew(launch(upstream, *TWO))
    page.open(crew.proxy)
    until(lambda: page.texts("#workers .state") == ["serving"] * 2)
    crew.kill(1)
    until(lambda: page.texts("#workers .state + td + td + td + td") == ["1", "0"], "the restart is shown")


def test_the_token_bar_moves(page: Page, proxy: Proxy) -> None:
    """The bar shows how much of the token's life has passed, and when it is replaced, without a reload."""
    page.open(proxy)

    def width() -> float:
        return float(page.run("return parseFloat(document.getElementById('elapsed').style.width)"))

    first = width()
    until(lambda: width() > first, "the bar has moved")
    mark = float(page.run("return parseFloat(document.getElementById('refresh-mark').style.left)"))
    assert 50 < mark < 100
    assert page.attribute("#lifetime", "aria-valuetext").startswith("Expires in 23 h")


def test_requests_appear_by_themselves(page: Page, proxy: Proxy) -> None:
    """A request is in the table soon after it was served, with its time split, and later in the plots."""
    page.open(proxy)
    page.run("window.unchanged = true")
    get(proxy, b"/v1/vehicles?token=CANARY")
    until(lambda: page.shows("GET /v1/vehicles"), "the request in the table")
    cells = page.texts("#recent tbody tr:first-child > *")
    assert cells[1:4] == ["200", "GET /v1/vehicles", "ok"]
    assert float(cells[4]) > 0
    assert len(page.texts("#recent tbody .first-byte")) == 1
    until(lambda: page.attribute("#latency .line.p99", "d"), "the request in the plot")
    until(lambda: "1 ok" in page.text("#outcomes"), "the request in the sum")
    assert page.run("return window.unchanged")
    assert "CANARY" not in page.browser.page_source
    assert page.complaints() == []


def test_filters(page: Page, proxy: Proxy, upstream: Upstream) -> None:
    """The requests can be narrowed down by status and by a part of the path."""
    upstream.answer = http_answer(404, b"")
    get(proxy, b"/v1/nothing")
    upstream.answer = http_answer(200, b"ok")
    get(proxy, b"/v1/vehicles/1")
    get(proxy, b"/v1/orders")
    page.open(proxy)
    status, path = Select(page.find("#status-filter")), page.find("#path-filter")
    assert len(page.requests()) == 3

    status.select_by_visible_text("4xx")
    assert page.requests() == ["GET /v1/nothing"]
    status.select_by_visible_text("not ok")
    assert page.requests() == ["GET /v1/nothing"]
    status.select_by_visible_text("all")
    path.send_keys("vehicles")
    assert page.requests() == ["GET /v1/vehicles/1"]
    assert page.text("#shown") == "1 of 3"
    path.send_keys("-there-is-none")
    assert page.text("#recent tbody") == "No request fits the filter."


def test_a_hostile_path_is_text(page: Page, proxy: Proxy) -> None:
    """A path that is markup is shown as what it is, and nothing in it runs."""
    path = "/<script>document.title='owned'</script><img/src=/x/onerror=document.title='owned'>"
    with proxy.connect() as client:
        client.send(request(b"GET", path.encode()))
        client.response()
    page.open(proxy)
    assert page.shows(f"GET {path}")
    assert page.texts("tbody script, tbody img") == []
    assert page.browser.title == "OK · thg-proxy"
    assert page.complaints() == []


def test_errors_by_code(page: Page, launch: Launcher, upstream: Upstream) -> None:
    """What the proxy answered in place of the API is counted by code, with what it means."""
    upstream.stop_listening()
    proxy = launch(upstream)
    get(proxy, b"/a")
    page.open(proxy)
    assert page.text("#errors tbody th") == "upstream_unreachable"
    assert "No connection to the upstream could be made." in page.text("#errors tbody")
    assert "upstream_unreachable" in page.text("#recent tbody")
    assert page.complaints() == []


def test_a_provider_that_fails(page: Page, proxy: Proxy, provider: DemoProvider) -> None:
    """While the token lives, an outage of the provider is `Degraded`, and the page says what to do (R163)."""
    page.open(proxy)
    provider.faults.token = faults.answer(500)
    until(lambda: proxy.token_age > 5, "the token may be replaced")
    proxy.admin("/refresh", "POST")
    until(lambda: page.text("#health") == "Degraded", "the outage on the page")
    assert "The last token request failed: http_5xx." in page.text("#reason")
    assert "token_refresh_failing" in page.text("#warnings")
    assert "http_5xx" in page.text("#token-facts")
    assert page.complaints() == []


def test_no_token(page: Page, launch: Launcher, upstream: Upstream, provider: DemoProvider) -> None:
    """Without a token the proxy is `Down`, and the page names the client and the cause."""
    provider.faults.token = faults.answer(401, b'{"error": "invalid_client"}')
    proxy = launch(upstream, ready=False)
    page.open(proxy)
    until(lambda: "invalid_client" in page.text("#reason"), "the refusal on the page")
    assert page.text("#health") == "Down"
    assert "Customer Portal" in page.text("#warnings")
    assert page.text("#token-summary") == "None yet"
    assert "rejected" in page.text("#clients tbody")


def test_a_proxy_that_has_gone(page: Page, proxy: Proxy) -> None:
    """When the proxy does not answer, the page says so, and of when its figures are."""
    page.open(proxy)
    proxy.stop()
    until(lambda: page.text("#health") == "No answer", "the end on the page")
    assert "Everything below is as of" in page.text("#reason")


HIDE = """
    Object.defineProperty(document, 'hidden', {value: true, configurable: true});
    document.dispatchEvent(new Event('visibilitychange'));
"""
SHOW = "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"


@pytest.mark.parametrize(
    "pause, resume",
    [
        pytest.param(lambda page: page.run(HIDE), lambda page: page.run(SHOW), id="hidden"),
        pytest.param(lambda page: page.find("#pause").click(), lambda page: page.find("#pause").click(), id="paused"),
    ],
)
def test_it_rests(page: Page, proxy: Proxy, pause: Callable[[Page], object], resume: Callable[[Page], object]) -> None:
    """A tab that nobody sees asks for nothing, nor does one that a person has paused; both go on where they were."""
    page.open(proxy)
    pause(page)
    get(proxy, b"/unseen")
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    try:
        page.open(proxy)
        until(lambda: page.shows("GET /unseen"), "the request in another tab")
    finally:
        page.browser.close()
        page.browser.switch_to.window(first)
    assert not page.shows("GET /unseen")
    resume(page)
    until(lambda: page.shows("GET /unseen"), "the request in the first tab")


def test_keyboard(page: Page, proxy: Proxy) -> None:
    """Everything that can be used is reached with Tab, is seen to have the focus, and does what it does by keys."""
    get(proxy, b"/v1/vehicles")
    page.open(proxy)
    focused = page.press(Keys.TAB)
    stops = 0
    while focused.get_attribute("id") != "status-filter":
        stops += 1
        assert stops < 10, "the filters are far away"
        focused = page.press(Keys.TAB)
    assert focused.value_of_css_property("outline-style") == "solid"
    assert page.press(Keys.TAB).get_attribute("id") == "path-filter"
    page.press("nothing")
    assert page.text("#shown") == "0 of 1"
    # Chromium's own button inside a search field takes no focus.
    assert page.press(Keys.TAB).get_attribute("id") == "pause"
    assert page.press(Keys.SPACE).get_attribute("aria-pressed") == "true"
    # A table that is wider than its box is scrolled with the arrow keys.
    assert "scroll" in (page.press(Keys.TAB).get_attribute("class") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_looks(page: Page, proxy: Proxy, size: tuple[int, int], scheme: str) -> None:
    """On a phone and on a desk nothing sticks out, and the page is as light or dark as the person wants it."""
    page.resize(size)
    page.prefer(scheme)
    get(proxy, b"/v1/" + b"long" * 200)
    page.open(proxy)
    assert page.run("return document.documentElement.scrollWidth") <= size[0]
    assert (brightness(page, "background-color") > brightness(page, "color")) is (scheme == "light")
    plot = page.run("return document.querySelector('#rate svg').getBoundingClientRect().width")
    assert 0 < plot < size[0]


def brightness(page: Page, which: str) -> int:
    colour = page.find("body").value_of_css_property(which)
    return sum(int(part) for part in colour.partition("(")[2].split(",")[:3])
