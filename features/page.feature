Feature: Web page
  The built-in web page and its files are served at the root. Browser tests cover its behavior.

  Scenario Outline: <path> of the web page is served
    When I get "<path>"
    Then the status is 200
    And the header "content-type" is "<media>"
    And the header "cache-control" is "no-cache"

    Examples:
      | path           | media                          |
      | /              | text/html; charset=utf-8       |
      | /index.html    | text/html; charset=utf-8       |
      | /completion.js | text/javascript; charset=utf-8 |
      | /style.css     | text/css; charset=utf-8        |
      | /vendor/temml.css | text/css; charset=utf-8     |
      | /vendor/markdown-it.js | text/javascript; charset=utf-8 |
      | /vendor/LICENSES.txt | text/plain; charset=utf-8 |

  Scenario: the web page requires no API key, but /props does
    Given a server with the API keys "sk-one" and "sk-two"
    When I get "/"
    Then the status is 200
    When I get "/completion.js"
    Then the status is 200
    When I get "/props"
    Then the status is 401

  Scenario: an unknown file of the web page gets 404
    When I get "/nothing.js"
    Then the status is 404
    And the error message contains "path not found: /nothing.js"
