Feature: The page at the root
  For people, and for those who build pages of their own. What it does in a browser is tested in one.

  Scenario Outline: <path> is served
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

  Scenario: It needs no key, what it asks for does
    Given a server with the keys "sk-one" and "sk-two"
    When I get "/"
    Then the status is 200
    When I get "/completion.js"
    Then the status is 200
    When I get "/props"
    Then the status is 401

  Scenario: What is not there is not there
    When I get "/nothing.js"
    Then the status is 404
    And the error says "there is nothing at /nothing.js"
