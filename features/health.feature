Feature: Whether the server can take requests
  A load balancer asks before it sends anybody.

  Scenario: The model is loaded
    When I ask for the health
    Then the status is 200
    And the answer's "status" is "ok"
    And the answer's "slots_idle" is 4
    And the answer's "slots_processing" is 0

  Scenario: The health tells the slots if it is asked to
    When I ask for the health with the slots
    Then the status is 200
    And the answer's "slots.3.id" is 3

  Scenario: Slots that are hidden are not told
    Given a server that does not show its slots
    When I ask for the health with the slots
    Then the status is 200
    And the answer's "slots_idle" is 4
    And the answer has no "slots"

  Scenario: The model is still loading
    Given a server that is still loading its model
    When I ask for the health
    Then the status is 503
    And the answer's "status" is "loading model"
    When I ask for the props
    Then the status is 503
    And the error says "Loading model"

  Scenario: The model could not be loaded
    Given a server whose model could not be loaded
    When I ask for the health
    Then the status is 500
    And the answer's "status" is "error"
    When I ask for a completion:
      """
      {"prompt": "Hello"}
      """
    Then the status is 503
    And the error says "out of memory"

  Scenario: All slots are taken
    Given four endless streams
    When I ask for the health
    Then the status is 200
    And the answer's "status" is "no slot available"
    And the answer's "slots_processing" is 4
    When I ask for the health and want a failure if no slot is free
    Then the status is 503
    And the answer's "status" is "no slot available"
    When all streams are left
    Then all slots become idle

  Scenario: A parameter counts by its presence
    Given four endless streams
    When I get "/health?fail_on_no_slot=0&include_slots=false"
    Then the status is 503
    And the answer's "slots.0.state" is 1
    When all streams are left
    Then all slots become idle
